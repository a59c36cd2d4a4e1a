import { expect, test } from "vitest";
import { pageAt } from "./router";

test.each([
  ["/", "models"],
  ["/models", "models"],
  ["/models/", "models"],
  ["/chat", "chat"],
  ["/nowhere", "unknown"],
])("%s is the page %s", (path, page) => {
  expect(pageAt(path)).toBe(page);
});
