// The blocks of an answer's Markdown (paragraphs, lists, tables, fenced code), cut out while it arrives. More text
// changes only the last one, so only that one is parsed and shown again.
import remarkGfm from "remark-gfm";
import remarkParse from "remark-parse";
import { unified } from "unified";
import { isParsable } from "./parsable";

export interface Block {
  // Where it begins in the text: stable while the text grows.
  at: number;
  text: string;
}

const parser = unified().use(remarkParse).use(remarkGfm).freeze();

// A definition of a link or of a footnote may be used in any block, so its text is one block.
const DEFINITION = /^ {0,3}\[[^\]\n]+\]:/m;

// A long text is looked through in steps, as if it arrived: each is short enough to be parsed (`parsable.ts`).
const STEP = 2_000;

// Cuts a text that grows at its end; another text begins anew.
export function createSplitter(): (text: string) => Block[] {
  let settled: Block[] = [];
  // Up to where the text is settled, and up to where it has been looked through.
  let end = 0;
  let seen = "";

  function settle(text: string) {
    // A line that is still coming may turn out to be something else: "***" a rule, "***yes***" a word.
    const lines = text.slice(end, text.lastIndexOf("\n") + 1);
    if (!isParsable(lines)) {
      return;
    }
    const starts = parser
      .parse(lines)
      .children.map(({ position }) => lines.lastIndexOf("\n", (position?.start.offset ?? 0) - 1) + 1);
    // The end of one is the start of the next; the last one is still open.
    const from = end;
    for (const start of starts.slice(1)) {
      settled.push({ at: end, text: text.slice(end, from + start) });
      end = from + start;
    }
  }

  return (text) => {
    if (!text.startsWith(seen)) {
      settled = [];
      end = 0;
      seen = "";
    }
    if (DEFINITION.test(text)) {
      return [{ at: 0, text }];
    }
    settled = [...settled];
    while (seen.length < text.length) {
      const more = text.slice(seen.length, seen.length + STEP);
      seen += more;
      if (more.includes("\n")) {
        settle(seen);
      }
    }
    return end < text.length ? [...settled, { at: end, text: text.slice(end) }] : settled;
  };
}
