import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ImportTemplatesResponseSchema } from "../../gen/millm/catalog/v1/templates_pb";
import { importText, LARGEST_BYTES, readTemplates, templateFileName } from "./template-file";

const file = (text: string, size = text.length) => ({
  name: "mine.json",
  size,
  text: () => Promise.resolve(text),
});

test("a document is read as it is", async () => {
  const text = '{"version": 1, "templates": []}';
  expect(await readTemplates(file(text))).toBe(text);
});

test.each([
  ["a file that is too large", file("{}", LARGEST_BYTES + 1), "mine.json has 2.1 MB"],
  ["a file that is no JSON", file("\u0000PNG"), "mine.json is not JSON"],
])("%s is refused", async (_what, chosen, says) => {
  await expect(readTemplates(chosen)).rejects.toThrow(says);
});

test.each([
  ["residual-mlp_layers0-11_1000samples_1430", "residual-mlp_layers0-11_1000samples_1430.json"],
  ["../../etc/passwd", "_.._etc_passwd.json"],
  ['Entwurf "ü"/1', "Entwurf _1.json"],
  [undefined, "templates.json"],
  ["...", "templates.json"],
])("%s is saved as %s", (handle, name) => {
  expect(templateFileName(handle)).toBe(name);
});

test.each([
  [1, 0, "1 template was imported."],
  [3, 1, "3 templates were imported, 1 was skipped."],
  [0, 2, "No template was imported, 2 were skipped."],
])("%d created, %d skipped", (created, skipped, text) => {
  const answer = create(ImportTemplatesResponseSchema, {
    created: Array.from({ length: created }, () => ({})),
    skipped: Array.from({ length: skipped }, () => ({})),
  });
  expect(importText(answer)).toBe(text);
});
