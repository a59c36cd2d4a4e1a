import { expect, test } from "vitest";
import { isParsable } from "./parsable";

const pairs = (n: number) => `${"*a ".repeat(n)}${"b*".repeat(n)}`;
const code = `\`\`\`c\n${"int *p = *q[0];\n".repeat(1_000)}\`\`\`\n`;

test.each([
  ["prose", "It is **Tokyo**, not `kyoto`.\n".repeat(200)],
  ["rules", `${"-".repeat(200)}\n${"* * * ".repeat(6)}\n`],
  ["code with many stars", code],
  ["code that is still coming", code.slice(0, -4)],
  ["code in tildes, with backticks inside", `~~~~\n\`\`\`\n~~~\n${"*a ".repeat(2_000)}\n~~~~\nDone.`],
  ["a long list", "- one\n".repeat(5_000)],
])("%s can be parsed", (_what, text) => {
  expect(isParsable(text)).toBe(true);
});

test.each([
  ["a very long text", "a\n".repeat(25_001)],
  ["deep quotes", `ok\n${"> ".repeat(40)}deep`],
  ["quotes without spaces", `${">".repeat(20_000)}deep`],
  ["deep lists", `${"- ".repeat(400)}deep`],
  ["deep numbered lists", `${"1. ".repeat(400)}deep`],
  ["nested emphasis", pairs(600)],
  ["a run of stars", `${"*".repeat(600)}a${"*".repeat(600)}`],
  ["nested images", `${"![".repeat(1_100)}${"](x)".repeat(1_100)}`],
  ["emphasis after code", `${code}\n${pairs(600)}`],
  ["emphasis behind what only looks like a fence", `\`\`\` \`\n${pairs(600)}`],
  ["emphasis behind a fence inside HTML", `<!--\n\`\`\`\n-->\n${pairs(600)}`],
])("%s is not parsed", (_what, text) => {
  expect(isParsable(text)).toBe(false);
});
