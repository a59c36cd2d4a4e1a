// Where the model comes from: two radio buttons that look like a switch.
import { useId } from "react";
import type { Draft } from "./draft";

const SOURCES: [Draft["source"], string][] = [
  ["hub", "Hugging Face"],
  ["local", "Local path"],
];

interface Props {
  value: Draft["source"];
  onChange(value: Draft["source"]): void;
}

export function SourceSwitch({ value, onChange }: Props) {
  const name = useId();
  return (
    <fieldset className="flex rounded-lg bg-sunken p-0.5 text-sm">
      <legend className="sr-only">Source</legend>
      {SOURCES.map(([source, text]) => (
        <label
          key={source}
          className="rounded-md px-3 py-1 text-ink-soft has-checked:bg-surface has-checked:font-medium has-checked:text-ink has-checked:shadow-card has-focus-visible:outline-2 has-focus-visible:outline-accent max-sm:py-2"
        >
          <input
            type="radio"
            className="sr-only"
            name={name}
            checked={value === source}
            onChange={() => onChange(source)}
          />
          {text}
        </label>
      ))}
    </fieldset>
  );
}
