// One thing that was said: a question as it was written, an answer as the Markdown that models write.
import { memo, Suspense } from "react";
import { ErrorBoundary } from "react-error-boundary";
import { lazily } from "../../ui/lazily";
import type { Turn } from "./conversation";
import { PlainText } from "./markdown/plain-text";

const Markdown = lazily(() => import("./markdown/markdown"), "Markdown");

export const TurnView = memo(function TurnView({ turn, arriving }: { turn: Turn; arriving: boolean }) {
  if (turn.role === "user") {
    return (
      <div className="flex justify-end">
        <p className="max-w-[85%] rounded-2xl rounded-br-md bg-accent-soft px-4 py-2 whitespace-pre-wrap wrap-anywhere">
          <span className="sr-only">You: </span>
          {turn.text}
        </p>
      </div>
    );
  }
  const plain = <PlainText text={turn.text} />;
  return (
    <div data-testid="answer" className="min-w-0">
      <span className="sr-only">Answer: </span>
      {turn.text !== "" && (
        <ErrorBoundary fallback={plain}>
          <Suspense fallback={plain}>
            <Markdown text={turn.text} arriving={arriving} />
          </Suspense>
        </ErrorBoundary>
      )}
      {arriving && (
        <span
          aria-hidden
          className="mt-1 inline-block h-4 w-2 animate-pulse rounded-sm bg-accent align-middle"
        />
      )}
      {turn.error !== undefined && (
        <p role="alert" className="mt-1 rounded-lg bg-bad-soft px-3 py-2 text-sm text-bad">
          {turn.error}
        </p>
      )}
      {turn.note !== undefined && <p className="mt-1 text-xs tabular-nums text-ink-faint">{turn.note}</p>}
    </div>
  );
});
