// What a person does with the page, from an empty server to an empty server.
import AxeBuilder from "@axe-core/playwright";
import { expect, type Page, test } from "@playwright/test";
import { download, load, unloadAndDelete } from "./page";
import { MODEL, REPO } from "./server";

test.describe.configure({ mode: "serial" });

async function expectAccessible(page: Page) {
  // Colours that are still changing would be measured halfway.
  await page.emulateMedia({ reducedMotion: "reduce" });
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    // Even the shortest transition ends with a frame.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const { violations } = await new AxeBuilder({ page }).analyze();
    expect(violations.map(({ id, nodes }) => `${colorScheme}: ${id}: ${nodes[0]?.html}`)).toEqual([]);
  }
}

test("complete model workflow", async ({ page }) => {
  await page.goto("/models");

  await page.fill('[data-testid="repo-input"]', REPO);
  await page.click('[data-testid="download-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Ready", { timeout: 60_000 });

  await page.click('[data-testid="load-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Loaded", { timeout: 30_000 });
  await expect(page.locator('[data-testid="status-bar-model"]')).toContainText(MODEL);

  await page.click('[data-testid="unload-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Ready");
  await expect(page.locator('[data-testid="status-bar-model"]')).toHaveText("No model loaded");

  await page.click('[data-testid="delete-btn"]');
  await page.click('[data-testid="confirm-delete-btn"]');
  await expect(page.locator('[data-testid="model-card"]')).toHaveCount(0);
});

test("the loaded model answers in the chat, and a reload finds it loaded", async ({ page }) => {
  await download(page);
  await load(page);
  await page.reload();
  await expect(page.locator('[data-testid="status-bar-model"]')).toContainText(MODEL);

  await page.getByRole("link", { name: "Chat" }).click();
  // The most likely answer, each time the same.
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByLabel("Temperature").fill("0");
  const input = page.getByTestId("chat-input");
  await input.fill("What is the capital of Japan?");
  await input.press("Enter");
  await expect(page.getByTestId("answer")).toContainText(/\d+ tokens?( •|$)/, { timeout: 60_000 });
  await expect(page.getByTestId("answer")).toContainText("Tokyo");
  await expectAccessible(page);
  await unloadAndDelete(page);
});

test("a second page sees what the first one does", async ({ page, context }) => {
  const other = await context.newPage();
  await other.goto("/models");
  await expect(other.getByText("No models yet")).toBeVisible();
  await page.bringToFront();
  await download(page);
  await load(page);
  await other.bringToFront();
  await expect(other.getByTestId("model-status")).toHaveText("Loaded");
  await unloadAndDelete(other);
  await page.bringToFront();
  await expect(page.getByTestId("model-card")).toHaveCount(0);
});

test("what is wrong with a repository is said beside its field", async ({ page }) => {
  await page.goto("/");
  await page.fill('[data-testid="repo-input"]', "no-owner");
  await page.click('[data-testid="download-btn"]');
  await expect(page.getByRole("alert")).toContainText("owner/name");
  await page.fill('[data-testid="repo-input"]', "nobody/there-is-no-such-model");
  await page.click('[data-testid="download-btn"]');
  await expect(page.getByRole("alert")).toContainText("nobody/there-is-no-such-model");
  await expect(page.getByTestId("model-card")).toHaveCount(0);
});

test("the preview tells what a model takes, and gives the focus back", async ({ page }) => {
  await page.goto("/models");
  await page.fill('[data-testid="repo-input"]', REPO);
  await page.click('[data-testid="preview-btn"]');
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText(REPO);
  for (const quantization of ["Q2", "Q4", "Q8", "FP16"]) {
    await expect(dialog.getByRole("radio", { name: quantization })).toBeVisible();
  }
  await expectAccessible(page);
  await page.keyboard.press("Escape");
  await expect(dialog).toHaveCount(0);
  await expect(page.getByTestId("preview-btn")).toBeFocused();
});

test("the hub suggests repositories while one types", async ({ page }) => {
  await page.goto("/models");
  const field = page.getByTestId("repo-input");
  await field.focus();
  await page.keyboard.type(MODEL.slice(0, 4));
  await expect(page.getByRole("option", { name: REPO })).toBeVisible();
  await expectAccessible(page);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await expect(field).toHaveValue(REPO);
  await expect(page.getByRole("option", { name: REPO })).toHaveCount(0);
  await expect(field).toBeFocused();
});

test("everything can be done with the keyboard alone", async ({ page }) => {
  await page.goto("/models");
  await page.getByTestId("repo-input").focus();
  await page.keyboard.type(REPO);
  await page.keyboard.press("Enter");
  await expect(page.getByTestId("model-status")).toHaveText("Ready", { timeout: 60_000 });
  await page.getByTestId("load-btn").focus();
  await page.keyboard.press("Enter");
  await expect(page.getByTestId("model-status")).toHaveText("Loaded", { timeout: 30_000 });
  await expectAccessible(page);
  // The focus has stayed on the button, which now means Unload.
  await expect(page.getByTestId("unload-btn")).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(page.getByTestId("model-status")).toHaveText("Ready");
  await expect(page.getByTestId("load-btn")).toBeFocused();
  // The watch may tell of the unload before its own answer has come.
  await expect(page.getByTestId("delete-btn")).toBeEnabled();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("dialog").getByRole("button", { name: "Keep" })).toBeFocused();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await expect(page.getByTestId("model-card")).toHaveCount(0);
  await expect(page.locator("#main")).toBeFocused();
});

test("a phone shows it all without scrolling sideways", async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.goto("/models");
  await expect(page.getByText("No models yet")).toBeVisible();
  await expect(page.getByTestId("status-bar-model")).toHaveText("No model loaded");
  for (const path of ["/models", "/chat"]) {
    await page.goto(path);
    await expect(page.getByTestId("status-bar-model")).toBeVisible();
    await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
    const { scrolled, shown } = await page.evaluate(() => ({
      scrolled: document.documentElement.scrollWidth,
      shown: document.documentElement.clientWidth,
    }));
    expect(scrolled).toBeLessThanOrEqual(shown);
  }
  await expectAccessible(page);
});
