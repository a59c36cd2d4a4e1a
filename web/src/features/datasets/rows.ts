// Rows of a dataset as a table: the server sends each as one JSON object.
import type { Dataset } from "../../gen/millm/catalog/v1/datasets_pb";

export type Cell =
  | { kind: "text"; text: string }
  | { kind: "messages"; messages: { role: string; content: string }[] }
  // Numbers, lists and objects, as JSON.
  | { kind: "other"; text: string };

export interface RowsTable {
  // The column that is read comes first.
  columns: string[];
  rows: ReadonlyMap<string, Cell>[];
}

const MOST_COLUMNS = 20;
const MOST_CHARACTERS = 2_000;
const MOST_MESSAGES = 50;

export function rowsTable(rowsJson: readonly string[], { columns, column }: Dataset): RowsTable {
  const rows = rowsJson.map(cellsOf);
  const names = new Set([column, ...columns.map(({ name }) => name)].filter((name) => name !== ""));
  for (const row of rows) {
    for (const name of row.keys()) {
      names.add(name);
    }
  }
  return { columns: [...names].slice(0, MOST_COLUMNS), rows };
}

function cellsOf(json: string): ReadonlyMap<string, Cell> {
  let row: unknown;
  try {
    row = JSON.parse(json);
  } catch {
    // A row that was cut is still worth showing.
    return new Map([["", { kind: "other", text: cut(json) }]]);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    return new Map([["", cellOf(row)]]);
  }
  return new Map(Object.entries(row).map(([name, value]) => [name, cellOf(value)]));
}

function cellOf(value: unknown): Cell {
  if (typeof value === "string") {
    return { kind: "text", text: cut(value) };
  }
  if (Array.isArray(value) && value.length > 0 && value.every(isMessage)) {
    const messages = value.slice(0, MOST_MESSAGES);
    return {
      kind: "messages",
      messages: messages.map(({ role, content }) => ({ role: cut(role), content: cut(content) })),
    };
  }
  return { kind: "other", text: cut(JSON.stringify(value) ?? "") };
}

function isMessage(value: unknown): value is { role: string; content: string } {
  return (
    typeof value === "object" &&
    value !== null &&
    "role" in value &&
    typeof value.role === "string" &&
    "content" in value &&
    typeof value.content === "string"
  );
}

function cut(text: string): string {
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text;
}
