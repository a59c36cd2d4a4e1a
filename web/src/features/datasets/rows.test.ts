import { expect, test } from "vitest";
import { sampleDataset } from "../../api/inspection-samples";
import { rowsTable } from "./rows";

test("the column that is read comes first, and each value keeps its kind", () => {
  const row = { id: 7, text: "Once", chat: [{ role: "user", content: "Hi" }], more: null };
  const { columns, rows } = rowsTable([JSON.stringify(row)], sampleDataset({ column: "text" }));
  expect(columns).toEqual(["text", "chat", "id", "more"]);
  expect(Object.fromEntries(rows[0] ?? [])).toEqual({
    id: { kind: "other", text: "7" },
    text: { kind: "text", text: "Once" },
    chat: { kind: "messages", messages: [{ role: "user", content: "Hi" }] },
    more: { kind: "other", text: "null" },
  });
});

test("odd rows are shown as they are", () => {
  const { rows } = rowsTable(["{", "[1]", '"x"', `{"text": "${"a".repeat(9000)}"}`], sampleDataset());
  expect(rows[0]?.get("")).toEqual({ kind: "other", text: "{" });
  expect(rows[1]?.get("")).toEqual({ kind: "other", text: "[1]" });
  expect(rows[2]?.get("")).toEqual({ kind: "text", text: "x" });
  const long = rows[3]?.get("text");
  expect(long?.kind === "text" && long.text.length).toBe(2001);
});
