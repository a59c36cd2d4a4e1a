// Where a message is written: Enter sends, Shift+Enter begins a line, and the same button stops the answer.
import { ArrowUp, SlidersHorizontal, Square } from "lucide-react";
import { type FormEvent, type KeyboardEvent, useId, useRef, useState } from "react";
import { Button } from "../../ui/button";
import type { ChatSettings } from "./conversation";

interface Props {
  loaded: boolean;
  answering: boolean;
  settings: ChatSettings;
  onSettings(settings: Partial<ChatSettings>): void;
  onSend(text: string): void;
  onStop(): void;
}

export function Composer({ loaded, answering, settings, onSettings, onSend, onStop }: Props) {
  const [text, setText] = useState("");
  const [tuning, setTuning] = useState(false);
  const input = useRef<HTMLTextAreaElement>(null);
  const settingsId = useId();
  const sendable = loaded && text.trim() !== "";

  function submit(event?: FormEvent) {
    event?.preventDefault();
    if (answering) {
      onStop();
    } else if (sendable) {
      onSend(text.trim());
      setText("");
    }
    input.current?.focus();
  }

  function keys(event: KeyboardEvent) {
    // Enter also ends a composed character (Japanese, Chinese): not a message yet.
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      if (!answering) {
        submit();
      }
    }
  }

  return (
    <form onSubmit={submit} className="sticky bottom-0 mt-auto bg-canvas pt-2 pb-3">
      {tuning && <Settings id={settingsId} settings={settings} onSettings={onSettings} />}
      <div className="card flex items-end gap-1.5 p-1.5 focus-within:border-accent">
        <Button
          label="Settings"
          icon={SlidersHorizontal}
          look="quiet"
          compact="always"
          className="max-sm:w-11"
          aria-expanded={tuning}
          aria-controls={settingsId}
          onClick={() => setTuning(!tuning)}
        />
        <textarea
          ref={input}
          data-testid="chat-input"
          aria-label="Message"
          rows={1}
          value={text}
          disabled={!loaded}
          placeholder={loaded ? "Write a message" : "Load a model to chat"}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={keys}
          className="field-sizing-content max-h-48 min-h-9 flex-1 resize-none bg-transparent px-2 py-1.5 outline-none placeholder:text-ink-faint max-sm:min-h-11 max-sm:py-2.5"
        />
        {answering ? (
          <Button
            key="stop"
            label="Stop"
            icon={Square}
            compact="always"
            type="submit"
            data-testid="stop-btn"
            className="max-sm:w-11"
          />
        ) : (
          <Button
            key="send"
            label="Send"
            icon={ArrowUp}
            look="primary"
            compact="always"
            type="submit"
            data-testid="send-btn"
            className="max-sm:w-11"
            disabled={!sendable}
          />
        )}
      </div>
    </form>
  );
}

interface SettingsProps {
  id: string;
  settings: ChatSettings;
  onSettings(settings: Partial<ChatSettings>): void;
}

function Settings({ id, settings, onSettings }: SettingsProps) {
  const temperatureId = useId();
  const tokensId = useId();
  return (
    <fieldset id={id} className="card mb-2 flex flex-wrap items-center gap-x-6 gap-y-3 px-4 py-3 text-sm">
      <legend className="sr-only">Settings</legend>
      <div className="flex items-center gap-3">
        <label htmlFor={temperatureId} className="text-ink-soft">
          Temperature
        </label>
        <input
          id={temperatureId}
          type="range"
          min={0}
          max={2}
          step={0.1}
          value={settings.temperature}
          onChange={(event) => onSettings({ temperature: Number(event.target.value) })}
          className="w-32 accent-accent"
        />
        <output htmlFor={temperatureId} className="w-7 tabular-nums">
          {settings.temperature.toFixed(1)}
        </output>
      </div>
      <div className="flex items-center gap-3">
        <label htmlFor={tokensId} className="whitespace-nowrap text-ink-soft">
          Most tokens
        </label>
        <input
          id={tokensId}
          type="number"
          min={1}
          max={32768}
          value={settings.maxTokens}
          onChange={(event) => {
            const n = event.target.valueAsNumber;
            if (Number.isInteger(n) && n >= 1 && n <= 32768) {
              onSettings({ maxTokens: n });
            }
          }}
          className="field w-24!"
        />
      </div>
    </fieldset>
  );
}
