// A fenced block of code; it gets its colours when its language is known and the highlighter is there.
import { Suspense } from "react";
import { ErrorBoundary } from "react-error-boundary";
import { lazily } from "../../../ui/lazily";

const Highlighted = lazily(() => import("./highlighted"), "Highlighted");

// Longer code stays plain: it would be coloured again with every word that arrives.
const MOST_CHARACTERS = 20_000;

export function CodeBlock({ text, language }: { text: string; language: string }) {
  const coloured = language !== "" && text.length <= MOST_CHARACTERS;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable without a pointer.
    <pre tabIndex={0}>
      <code>
        {coloured ? (
          <ErrorBoundary fallback={text}>
            <Suspense fallback={text}>
              <Highlighted text={text} language={language} />
            </Suspense>
          </ErrorBoundary>
        ) : (
          text
        )}
      </code>
    </pre>
  );
}
