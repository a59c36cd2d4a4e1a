// Whether a text can be parsed as Markdown in a moment. A model may write anything, and the parser needs quadratic
// time for deep nesting; what is not parsed is shown as it came.

const MOST_CHARACTERS = 50_000;
// Quotes and lists in one another, on one line.
const DEEPLY_NESTED = /^(?:[ \t]*(?:>|(?:[*+-]|\d{1,9}[.)])[ \t])){40}/m;
// What may open emphasis, strikethrough, a link or an image. A thousand of these in pairs take a tenth of a second.
const MOST_MARKS = 1_000;

export function isParsable(text: string): boolean {
  return text.length <= MOST_CHARACTERS && !DEEPLY_NESTED.test(text) && marksIn(text) <= MOST_MARKS;
}

function marksIn(text: string): number {
  const prose = outsideFences(text);
  // Fences inside HTML are none, and that is not told apart here.
  const counted = /^ {0,3}</m.test(prose) ? text : prose;
  return counted.match(/[*_~[]/g)?.length ?? 0;
}

// The lines that are in no fenced code: marks mean nothing there.
function outsideFences(text: string): string {
  let fence = "";
  return text
    .split("\n")
    .filter((line) => {
      const marker = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})/.exec(line)?.[1] ?? "";
      if (fence === "") {
        fence = marker;
        return marker === "";
      }
      if (marker.startsWith(fence) && line.trim() === marker) {
        fence = "";
      }
      return false;
    })
    .join("\n");
}
