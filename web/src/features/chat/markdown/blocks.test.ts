import { expect, test } from "vitest";
import { createSplitter } from "./blocks";

const ANSWER = `# Title

A paragraph
of two lines.

   - one

     still one
   - two

\`\`\`python
x = 1

# no title
\`\`\`
| a | b |
|---|---|
| 1 | 2 |

Last words`;

const BLOCKS = [
  "# Title\n\n",
  "A paragraph\nof two lines.\n\n",
  "   - one\n\n     still one\n   - two\n\n",
  "```python\nx = 1\n\n# no title\n```\n",
  "| a | b |\n|---|---|\n| 1 | 2 |\n\nLast words",
];

const texts = (text: string) => createSplitter()(text).map((block) => block.text);

test("an answer is cut where its blocks begin, and nothing is lost", () => {
  expect(texts(ANSWER)).toEqual(BLOCKS);
  expect(texts(`${ANSWER}.\n`)).toEqual([
    ...BLOCKS.slice(0, 4),
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n",
    "Last words.\n",
  ]);
  expect(texts("")).toEqual([]);
});

test("a text that grows letter by letter is cut like the whole one, and its blocks keep their places", () => {
  const split = createSplitter();
  const places: number[] = [];
  for (let length = 1; length <= ANSWER.length; length += 1) {
    const blocks = split(ANSWER.slice(0, length));
    expect(blocks.map((block) => block.text).join("")).toBe(ANSWER.slice(0, length));
    const now = blocks.map((block) => block.at);
    expect(now.slice(0, places.length)).toEqual(places);
    places.splice(0, places.length, ...now);
  }
  expect(split(ANSWER).map((block) => block.text)).toEqual(BLOCKS);
});

test("a long answer that is there already is cut as if it had arrived", () => {
  const paragraph = "It is **Tokyo**, and *not* **Kyoto**.\n\n";
  expect(texts(paragraph.repeat(2_000))).toEqual(Array(2_000).fill(paragraph));
});

test("a line that is still coming cuts nothing", () => {
  const split = createSplitter();
  expect(split("It is\n***")).toHaveLength(1);
  expect(split("It is\n***Tokyo***.")).toEqual([{ at: 0, text: "It is\n***Tokyo***." }]);
});

test("another text begins anew", () => {
  const split = createSplitter();
  split("# One\n\nTwo\n\nThree");
  expect(split("Four\n\n# Five\n")).toEqual([
    { at: 0, text: "Four\n\n" },
    { at: 6, text: "# Five\n" },
  ]);
});

test("a text that defines a link or a footnote stays whole, for it may be used anywhere", () => {
  const text = "See [it][1].\n\nAnd a note.[^1]\n\n[1]: https://example.org\n[^1]: Here.\n";
  expect(texts(text)).toEqual([text]);
});

test("what would take long to parse is not parsed, and stays one block", () => {
  const deep = `One.\n\n${"> ".repeat(400)}deep\n\nTwo.\n`;
  expect(texts(deep)).toEqual([deep]);
});
