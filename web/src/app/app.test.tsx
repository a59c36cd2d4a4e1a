import { screen, waitFor } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import { joinModels } from "../api/join";
import { rowOf, sampleLoad, sampleRow } from "../api/samples";
import { App } from "./app";
import { renderWith } from "./test-page";

const SERVER = { listed: true, settled: true };
const heading = (name: string) => screen.findByRole("heading", { name });
const current = () => document.querySelector("nav [aria-current=page]")?.textContent;

test.each([
  ["/", "Your models", "Models"],
  ["/models", "Your models", "Models"],
  ["/models/", "Your models", "Models"],
  ["/chat", "Chat", "Chat"],
  ["/models/7", "Model 7", undefined],
  ["/datasets", "Datasets", "Datasets"],
  ["/extractions", "Extractions", "Extractions"],
  ["/extractions/a1", "Extraction", undefined],
  ["/nowhere", "There is no such page", undefined],
])("%s shows %s", async (path, name, tab) => {
  renderWith(<App />, { path, live: SERVER });
  await heading(name);
  expect(current()).toBe(tab);
});

test("a link changes page, title and focus, and takes the reader to the top", async () => {
  const scrolled = vi.spyOn(window, "scrollTo");
  const user = renderWith(<App />, { path: "/models", live: SERVER });
  await heading("Your models");
  expect(document.title).toBe("Models · miLLM");
  expect(document.activeElement).toBe(document.body);

  await user.click(screen.getByRole("link", { name: "Chat" }));
  await screen.findByText("No model is loaded");
  expect(document.title).toBe("Chat · miLLM");
  expect(current()).toBe("Chat");
  await waitFor(() => expect(document.activeElement).toBe(document.getElementById("main")));
  expect(scrolled).toHaveBeenCalledWith(0, 0);

  await user.click(screen.getByRole("link", { name: "To the models" }));
  await heading("Your models");
});

test("a page below another keeps its tab", async () => {
  renderWith(<App />, { path: "/models/7", live: SERVER });
  await heading("Model 7");
  const tabs = [...document.querySelectorAll("nav a")].map((tab) => tab.getAttribute("aria-current"));
  expect(tabs).toEqual(["true", null, null, null]);
});

test("the status bar tells what is loaded, on every page", async () => {
  const load = sampleLoad();
  const models = joinModels([rowOf(sampleRow(), undefined, load)], new Map(), [load]);
  renderWith(<App />, { path: "/nowhere", live: { ...SERVER, models } });
  await heading("There is no such page");
  expect(screen.getByTestId("status-bar-model").textContent).toBe("gemma-2-2b");
});
