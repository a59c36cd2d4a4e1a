// How the parts of an answer look that are more than their HTML.
import type { Element } from "hast";
import { ExternalLink, Image } from "lucide-react";
import type { ComponentProps } from "react";
import type { Components, ExtraProps } from "react-markdown";
import { CodeBlock } from "./code-block";

type Part<Tag extends "a" | "img" | "input" | "pre" | "table"> = ComponentProps<Tag> & ExtraProps;

// The answer's headings stand below the page's own.
export const PARTS: Components = {
  h1: "h2",
  h2: "h3",
  h3: "h4",
  h4: "h5",
  h5: "h6",
  a: Anchor,
  img: ImageLink,
  input: Task,
  pre: Pre,
  table: Table,
};

function Anchor({ href, id, children }: Part<"a">) {
  if (href === undefined) {
    return children;
  }
  if (href.startsWith("#")) {
    return (
      <a href={href} id={id}>
        {children}
      </a>
    );
  }
  return (
    <a href={href} title={href} target="_blank" rel="noopener noreferrer">
      {children}
    </a>
  );
}

// An image would tell its server that somebody reads this: it opens by a click, elsewhere.
function ImageLink({ src, alt }: Part<"img">) {
  const name = alt || "Image";
  if (typeof src !== "string" || src.startsWith("#")) {
    return name;
  }
  return (
    <a href={src} title={src} target="_blank" rel="noopener noreferrer" className="answer-image">
      <Image aria-hidden className="size-4" />
      {name}
      <ExternalLink aria-hidden className="size-3.5" />
    </a>
  );
}

function Task({ checked }: Part<"input">) {
  return <input type="checkbox" checked={checked} disabled aria-label={checked ? "Done" : "Not done"} />;
}

// Wide tables scroll by themselves, for the keyboard too.
function Table({ children }: Part<"table">) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable without a pointer.
    <section aria-label="Table" tabIndex={0} className="answer-table">
      <table>{children}</table>
    </section>
  );
}

function Pre({ node }: Part<"pre">) {
  const code = node?.children.find((child): child is Element => child.type === "element");
  const content = code?.children[0];
  return (
    <CodeBlock
      text={content?.type === "text" ? content.value.replace(/\n$/, "") : ""}
      language={languageOf(code)}
    />
  );
}

// "python" of `class="language-python"`.
function languageOf(code: Element | undefined): string {
  const names = code?.properties.className;
  const name = Array.isArray(names) ? names.find((one) => String(one).startsWith("language-")) : undefined;
  return name === undefined ? "" : String(name).slice("language-".length).toLowerCase();
}
