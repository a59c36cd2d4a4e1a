import { render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Page } from "./page";

// React writes what an error boundary has caught to the console.
beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

function Broken(): never {
  throw new Error("no such thing as a model");
}

function Fine() {
  return <p>fine</p>;
}

test("a page that fails says so and offers to reload; the next page is not touched", () => {
  const { rerender } = render(<Page title="Models" of={Broken} />);
  expect(screen.getByRole("alert").textContent).toContain("no such thing as a model");
  expect(screen.getByRole("button", { name: "Reload the page" })).toBeTruthy();
  rerender(<Page title="Chat" of={Fine} />);
  expect(screen.getByText("fine")).toBeTruthy();
  expect(document.title).toBe("Chat · miLLM");
});
