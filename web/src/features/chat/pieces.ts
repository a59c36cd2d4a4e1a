// An answer cut into prose and fenced code; a fence that is still open counts as code.

export interface Piece {
  // Where it begins in the text: stable while the text grows.
  at: number;
  code: boolean;
  text: string;
}

export function piecesOf(text: string): Piece[] {
  const pieces: Piece[] = [];
  let code = false;
  let at = 0;
  let lines: string[] = [];
  const end = (next: number) => {
    const piece = lines.join("\n");
    const shown = code ? piece : piece.replace(/^\n+|\n+$/g, "");
    if (shown !== "") {
      pieces.push({ at, code, text: shown });
    }
    at = next;
    lines = [];
  };
  let offset = 0;
  for (const line of text.split("\n")) {
    if (line.startsWith("```")) {
      end(offset);
      code = !code;
    } else {
      lines.push(line);
    }
    offset += line.length + 1;
  }
  end(offset);
  return pieces;
}

export interface Span {
  at: number;
  kind: "plain" | "strong" | "code";
  text: string;
}

// Prose cut at `code` and **strong**: the two marks that chat models use in nearly every answer.
export function spansOf(text: string): Span[] {
  const spans: Span[] = [];
  let at = 0;
  for (const found of text.matchAll(/`([^`\n]+)`|\*\*(\S|\S[^*\n]*\S)\*\*/g)) {
    if (found.index > at) {
      spans.push({ at, kind: "plain", text: text.slice(at, found.index) });
    }
    const [whole, code, strong] = found;
    spans.push({ at: found.index, kind: code === undefined ? "strong" : "code", text: code ?? strong ?? "" });
    at = found.index + whole.length;
  }
  if (at < text.length) {
    spans.push({ at, kind: "plain", text: text.slice(at) });
  }
  return spans;
}
