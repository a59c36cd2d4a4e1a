// Talking to the loaded model.
import { MessageSquareDashed, Plus } from "lucide-react";
import { type ReactNode, useEffect, useRef } from "react";
import { Link } from "react-router";
import { useLive } from "../../api/context";
import type { ModelView } from "../../api/join";
import { Button } from "../../ui/button";
import { loadAhead } from "../../ui/lazily";
import { Composer } from "./composer";
import { useConversation } from "./conversation";
import { TurnView } from "./turn-view";

export function ChatPage() {
  const { models, settled } = useLive();
  const { chat, state } = useConversation();
  const loaded = models.find((model) => model.status === "loaded");
  const { turns, answering } = state;

  // What shows an answer is there before the first one is.
  useEffect(loadAhead, []);

  return (
    <div className="mx-auto flex w-full max-w-3xl flex-1 flex-col">
      <div className="mb-4 flex min-h-9 items-center justify-between gap-3">
        <h1 className="min-w-0 truncate font-semibold">{loaded ? loaded.handle : "Chat"}</h1>
        {turns.length > 0 && (
          <Button label="New chat" icon={Plus} compact="phone" onClick={() => chat.clear()} />
        )}
      </div>
      {turns.length === 0 ? (
        <Nothing loaded={loaded} settled={settled} />
      ) : (
        <Turns follow={answering}>
          {turns.map((turn, index) => (
            <TurnView key={turn.id} turn={turn} arriving={answering && index === turns.length - 1} />
          ))}
        </Turns>
      )}
      <Composer
        loaded={loaded !== undefined}
        answering={answering}
        settings={state.settings}
        onSettings={(settings) => chat.set(settings)}
        onSend={(text) => void chat.send(text, loaded?.hasChatTemplate ?? true)}
        onStop={() => chat.stop()}
      />
    </div>
  );
}

function Nothing({ loaded, settled }: { loaded: ModelView | undefined; settled: boolean }) {
  return (
    <div className="m-auto flex flex-col items-center gap-2 py-10 text-center">
      <span className="grid size-12 place-items-center rounded-full bg-accent-soft text-accent">
        <MessageSquareDashed aria-hidden className="size-6" />
      </span>
      {loaded ? (
        <>
          <p className="mt-1 font-medium">Say something to {loaded.handle}</p>
          <p className="max-w-sm text-sm text-ink-soft">
            {loaded.hasChatTemplate
              ? "The conversation stays on this page; nothing is stored."
              : "This model has no chat template: it continues your text."}
          </p>
        </>
      ) : (
        settled && (
          <>
            <p className="mt-1 font-medium">No model is loaded</p>
            <p className="max-w-sm text-sm text-ink-soft">Load one to talk to it.</p>
            <Link
              to="/models"
              className="mt-2 inline-flex min-h-9 items-center rounded-lg bg-accent px-3.5 text-sm font-medium text-on-accent hover:bg-accent-strong"
            >
              To the models
            </Link>
          </>
        )
      )}
    </div>
  );
}

// Follows the answer while the reader is at the end; stays put for one who has scrolled back.
function Turns({ follow, children }: { follow: boolean; children: ReactNode }) {
  const log = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const following = useRef(follow);

  useEffect(() => {
    following.current ||= follow;
  }, [follow]);

  useEffect(() => {
    const look = () => {
      atEnd.current = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;
    };
    // An answer also grows after its last word: when its code gets colours.
    const grown = new ResizeObserver(() => {
      if (following.current && atEnd.current) {
        window.scrollTo(0, document.documentElement.scrollHeight);
      }
    });
    if (log.current) {
      grown.observe(log.current);
    }
    window.addEventListener("scroll", look, { passive: true });
    return () => {
      grown.disconnect();
      window.removeEventListener("scroll", look);
    };
  }, []);

  return (
    <div
      ref={log}
      role="log"
      aria-label="Conversation"
      aria-busy={follow}
      className="flex flex-1 flex-col gap-5 pb-6"
    >
      {children}
    </div>
  );
}
