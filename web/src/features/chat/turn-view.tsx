// One thing that was said: text as it came, code in its own box.
import type { Turn } from "./conversation";
import { piecesOf, spansOf } from "./pieces";

export function TurnView({ turn, arriving }: { turn: Turn; arriving: boolean }) {
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
  return (
    <div data-testid="answer" className="min-w-0">
      <span className="sr-only">Answer: </span>
      {piecesOf(turn.text).map((piece) =>
        piece.code ? (
          <pre
            key={piece.at}
            className="my-2 overflow-x-auto rounded-lg border border-line bg-sunken px-3 py-2 font-mono text-sm"
          >
            <code>{piece.text}</code>
          </pre>
        ) : (
          <p key={piece.at} className="whitespace-pre-wrap wrap-anywhere">
            <Inline text={piece.text} />
          </p>
        ),
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
}

function Inline({ text }: { text: string }) {
  return spansOf(text).map((span) => {
    if (span.kind === "strong") {
      return <strong key={span.at}>{span.text}</strong>;
    }
    if (span.kind === "code") {
      return (
        <code key={span.at} className="rounded bg-sunken px-1 py-px font-mono text-[0.9em]">
          {span.text}
        </code>
      );
    }
    return span.text;
  });
}
