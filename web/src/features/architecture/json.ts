// A config as a tree, and what of it a search finds.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

// The place of a value: keys and indices from the root, as one string.
export type Path = string;

// Deeper values are shown as text, and not searched.
export const DEEPEST = 32;

export function isContainer(value: Json): value is Json[] | { [key: string]: Json } {
  return typeof value === "object" && value !== null;
}

export function childrenOf(value: Json): [string, Json][] {
  return isContainer(value) ? Object.entries(value) : [];
}

export function childPath(path: Path, key: string): Path {
  return `${path}/${key}`;
}

// The places to show for what is searched: those whose key or value holds the text, what leads there, and everything
// inside of a key that matches.
export function findIn(root: Json, text: string): ReadonlySet<Path> {
  const wanted = text.toLowerCase();
  const found = new Set<Path>();

  // Answers whether something at or below the place is found.
  function look(value: Json, path: Path, depth: number, inside: boolean): boolean {
    let any = inside;
    if (!isContainer(value)) {
      any ||= String(value).toLowerCase().includes(wanted);
    } else if (depth < DEEPEST) {
      for (const [key, child] of childrenOf(value)) {
        const named = inside || (!Array.isArray(value) && key.toLowerCase().includes(wanted));
        any = look(child, childPath(path, key), depth + 1, named) || any;
      }
    }
    if (any) {
      found.add(path);
    }
    return any;
  }

  look(root, "", 0, false);
  return found;
}

// The text in parts: every second one is what was searched.
export function splitAt(text: string, wanted: string): string[] {
  if (wanted === "") {
    return [text];
  }
  const parts: string[] = [];
  const lower = text.toLowerCase();
  const needle = wanted.toLowerCase();
  // Lower case may have another length, in a few languages: the places would not fit.
  if (lower.length !== text.length) {
    return [text];
  }
  let from = 0;
  for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
    parts.push(text.slice(from, at), text.slice(at, at + needle.length));
    from = at + needle.length;
  }
  parts.push(text.slice(from));
  return parts;
}

// `undefined` for a text that is not JSON.
export function parseJson(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}
