// Templates as files: what is read from one, what is saved as one, and what came of an import in words.
import type { ImportTemplatesResponse } from "../../gen/millm/catalog/v1/templates_pb";
import { formatBytes, plural } from "../../ui/format";

// The server refuses larger documents.
export const LARGEST_BYTES = 2 << 20;

// The document of a file; fails with a sentence.
export async function readTemplates(file: Pick<File, "name" | "size" | "text">): Promise<string> {
  if (file.size > LARGEST_BYTES) {
    throw new Error(
      `${file.name} has ${formatBytes(file.size)}; a file of templates has at most ${formatBytes(LARGEST_BYTES)}.`,
    );
  }
  const text = await file.text();
  try {
    JSON.parse(text);
  } catch {
    throw new Error(`${file.name} is not JSON, and so no file of templates.`);
  }
  return text;
}

// "residual-mlp_layers0-11_1000samples_1430.json"; what no system takes in a name is replaced.
export function templateFileName(handle: string | undefined): string {
  const name = (handle ?? "").replaceAll(/[^A-Za-z0-9._ -]+/g, "_").replaceAll(/^[. ]+/g, "");
  return `${name.slice(0, 100) || "templates"}.json`;
}

// Lets the browser save a text.
export function saveText(name: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

// "2 templates were imported, 1 was skipped."
export function importText({ created, skipped }: ImportTemplatesResponse): string {
  const verb = (n: number) => (n === 1 ? "was" : "were");
  const imported =
    created.length > 0
      ? `${plural(created.length, "template")} ${verb(created.length)} imported`
      : "No template was imported";
  return skipped.length > 0
    ? `${imported}, ${skipped.length.toLocaleString("en")} ${verb(skipped.length)} skipped.`
    : `${imported}.`;
}
