// An answer as Markdown: GitHub's dialect, no raw HTML, no image that loads by itself. It comes with its parser only
// when the first answer does (`../turn-view.tsx`).
import { memo, useDeferredValue, useId, useMemo, useState } from "react";
import { ErrorBoundary } from "react-error-boundary";
import ReactMarkdown from "react-markdown";
import remarkBreaks from "remark-breaks";
import remarkGfm from "remark-gfm";
import remend from "remend";
import { createSplitter } from "./blocks";
import "./markdown.css";
import { isParsable } from "./parsable";
import { PARTS } from "./parts";
import { PlainText } from "./plain-text";
import { rehypeShallow } from "./rehype-shallow";

export function Markdown({ text, arriving }: { text: string; arriving: boolean }) {
  // Typing goes before showing: words that come faster than they are shown are shown together.
  const shown = useDeferredValue(text);
  const [split] = useState(createSplitter);
  const id = useId();
  const blocks = useMemo(() => split(shown), [split, shown]);
  const open = arriving ? blocks.at(-1) : undefined;
  return (
    <div className="markdown">
      {blocks.map((block) => (
        // What has begun and not ended yet, such as **bold, is closed for now.
        <BlockView key={block.at} id={id} text={block === open ? remend(block.text, OPEN) : block.text} />
      ))}
    </div>
  );
}

// An unfinished link is text until its address is there.
const OPEN = { linkMode: "text-only", katex: false } as const;

const REMARK = [remarkGfm, remarkBreaks];
const REHYPE = [rehypeShallow];

const BlockView = memo(function BlockView({ id, text }: { id: string; text: string }) {
  const plain = <PlainText text={text} />;
  if (!isParsable(text)) {
    return plain;
  }
  return (
    <ErrorBoundary fallback={plain} resetKeys={[text]}>
      <ReactMarkdown
        remarkPlugins={REMARK}
        // The footnotes of two answers are not the same.
        remarkRehypeOptions={{ clobberPrefix: `${id}-` }}
        rehypePlugins={REHYPE}
        components={PARTS}
        urlTransform={addressOf}
      >
        {text}
      </ReactMarkdown>
    </ErrorBoundary>
  );
});

// Only the web, mail, and places in this very answer.
function addressOf(url: string): string | undefined {
  return /^(?:https?:\/\/|mailto:|#)/i.test(url) ? url : undefined;
}
