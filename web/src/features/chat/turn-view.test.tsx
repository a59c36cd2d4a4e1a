import { render, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { TurnView } from "./turn-view";

const answer = (text: string) => ({ id: 1, role: "assistant" as const, text });

// Shows an answer and waits until its Markdown is there.
async function shown(text: string, arriving = false) {
  const view = render(<TurnView turn={answer(text)} arriving={arriving} />);
  await waitFor(() => expect(view.container.querySelector(".markdown")).toBeTruthy());
  const markdown = () => view.container.querySelector(".markdown");
  return {
    html: () => markdown()?.innerHTML ?? "",
    text: () => markdown()?.textContent ?? "",
    grow: (more: string, still = true) => view.rerender(<TurnView turn={answer(more)} arriving={still} />),
  };
}

const code = () => document.querySelector("pre code");

test("headings, lists, tables, code, and the line breaks of the model", async () => {
  await shown(
    "# Capitals\n\n1. Tokyo\n2. **Paris**\n\n| City | Country |\n|---|---|\n| Tokyo | Japan |\n\nOne\ntwo `three`\n\n- [x] done",
  );
  expect(screen.getByRole("heading", { level: 2, name: "Capitals" })).toBeTruthy();
  expect(screen.getAllByRole("listitem").map((item) => item.textContent)).toContain("Tokyo");
  expect(screen.getByText("Paris").tagName).toBe("STRONG");
  expect(screen.getByRole("columnheader", { name: "City" })).toBeTruthy();
  expect(screen.getByText("three").tagName).toBe("CODE");
  expect(document.querySelector("p br")).toBeTruthy();
  expect(screen.getByRole<HTMLInputElement>("checkbox", { name: "Done" }).checked).toBe(true);
});

test("code gets its colours when its language is known", async () => {
  await shown("```python\ndef f():\n    return 1\n```\n\n```nosuchlanguage\nplain\n```");
  await waitFor(() => expect(document.querySelector(".hljs-keyword")?.textContent).toBe("def"));
  expect(code()?.textContent).toBe("def f():\n    return 1");
  expect(screen.getByText("plain").children).toHaveLength(0);
});

test("raw HTML is text", async () => {
  const { html, text } = await shown(
    'Hi <img src="https://example.org/x.png" onerror="alert(1)"> <script>alert(2)</script>\n\n<iframe src="https://example.org"></iframe>',
  );
  expect(html()).not.toMatch(/<(img|script|iframe)/);
  expect(text()).toContain('<img src="https://example.org/x.png" onerror="alert(1)">');
  expect(text()).toContain("<iframe");
});

test("links open elsewhere without telling from where, and only to the web and mail", async () => {
  await shown(
    "[ok](https://example.org/a) <a@example.org> [script](javascript:alert(1)) [data](data:text/html,x) [here](/models) [other](//example.org)",
  );
  const ok = screen.getByRole<HTMLAnchorElement>("link", { name: "ok" });
  expect([ok.getAttribute("href"), ok.target, ok.rel, ok.title]).toEqual([
    ...["https://example.org/a", "_blank", "noopener noreferrer", "https://example.org/a"],
  ]);
  const hrefs = screen.getAllByRole("link").map((link) => link.getAttribute("href"));
  expect(hrefs).toEqual(["https://example.org/a", "mailto:a@example.org"]);
  for (const text of ["script", "data", "here", "other"]) {
    expect(screen.getByText(text, { exact: false })).toBeTruthy();
  }
});

test("an image is a link: nothing is fetched before a click", async () => {
  const { html } = await shown(
    "![a map](https://example.org/map.png)\n\n![inside](data:image/png;base64,AAAA)",
  );
  expect(html()).not.toContain("<img");
  expect(screen.getByRole<HTMLAnchorElement>("link", { name: "a map" }).rel).toBe("noopener noreferrer");
  expect(screen.queryByRole("link", { name: "inside" })).toBeNull();
  expect(screen.getByText("inside")).toBeTruthy();
});

test("footnotes lead to their own answer's notes", async () => {
  await shown("It is so.[^1]\n\n[^1]: Says who.");
  const link = screen.getByRole("link", { name: "1" });
  expect(link.getAttribute("target")).toBeNull();
  const note = document.getElementById((link.getAttribute("href") ?? "").slice(1));
  expect(note?.textContent).toContain("Says who.");
});

test("an answer that arrives is Markdown at every moment, and its ended blocks are left alone", async () => {
  const { grow, text } = await shown("First.\n\nIt is **Tok", true);
  await waitFor(() => expect(screen.getByText("Tok").tagName).toBe("STRONG"));
  const first = screen.getByText("First.");
  grow("First.\n\nIt is **Tokyo**, see [the m");
  await waitFor(() => expect(text()).toContain("Tokyo, see the m"));
  grow("First.\n\nIt is **Tokyo**, see [the map](https://example.org).\n\n```js\nlet x");
  await waitFor(() => expect(code()?.textContent).toBe("let x"));
  grow("First.\n\nIt is **Tokyo**, see [the map](https://example.org).\n\n```js\nlet x = 1;\n```\n", false);
  await waitFor(() => expect(code()?.textContent).toBe("let x = 1;"));
  expect(screen.getByRole("link", { name: "the map" })).toBeTruthy();
  expect(screen.getByText("First.")).toBe(first);
});

// React writes what an error boundary has caught to the console.
beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

test.each([
  ["quotes", `${">".repeat(5_000)}deep`],
  ["lists", `${"- ".repeat(5_000)}deep`],
  ["emphasis", `${"*".repeat(5_000)}deep${"*".repeat(5_000)}`],
  ["emphasis that is parsed", `${"*".repeat(400)}deep${"*".repeat(400)}`],
  ["a very long line", "a".repeat(60_000)],
])("%s too deep or too long for Markdown: shown as it came", async (_what, text) => {
  const view = await shown(text);
  await waitFor(() => expect(view.text()).toBe(text));
});

test("a question is shown as it was written", () => {
  render(<TurnView turn={{ id: 1, role: "user", text: "# **no** Markdown" }} arriving={false} />);
  expect(screen.getByText("# **no** Markdown")).toBeTruthy();
});
