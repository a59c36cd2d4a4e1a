// Pictures of the page: light, dark, and on a phone. For people to look at, and for the README.
import { type BrowserContextOptions, expect, type Page, test } from "@playwright/test";
import { download, load, unloadAndDelete } from "./page";
import { needed, REPO } from "./server";

const FOLDER = needed("MILLM_SCREENS", "the folder for the pictures");

const LOOKS: Record<string, BrowserContextOptions> = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

test("pictures of every screen", async ({ page, browser }) => {
  async function picture(name: string, show: (page: Page) => Promise<void>) {
    for (const [look, options] of Object.entries(LOOKS)) {
      const context = await browser.newContext({ ...options, reducedMotion: "reduce" });
      const view = await context.newPage();
      await show(view);
      await view.screenshot({ path: `${FOLDER}/${name}-${look}.png`, animations: "disabled" });
      await context.close();
    }
  }

  await picture("empty", async (view) => {
    await view.goto("/models");
    await expect(view.getByText("No models yet")).toBeVisible();
  });
  await download(page);
  await picture("preview", async (view) => {
    await view.goto("/models");
    await view.fill('[data-testid="repo-input"]', REPO);
    await view.click('[data-testid="preview-btn"]');
    await expect(view.getByTestId("preview")).toBeVisible();
  });
  await picture("delete", async (view) => {
    await view.goto("/models");
    await view.click('[data-testid="delete-btn"]');
    await expect(view.getByRole("dialog")).toBeVisible();
  });
  await load(page);
  await picture("loaded", async (view) => {
    await view.goto("/models");
    await expect(view.getByTestId("model-status")).toHaveText("Loaded");
  });
  await picture("chat", async (view) => {
    await view.goto("/chat");
    const settings = view.getByRole("button", { name: "Settings" });
    await settings.click();
    await view.getByLabel("Temperature").fill("0");
    await settings.click();
    const input = view.getByTestId("chat-input");
    await input.fill("What is the capital of Japan?");
    await input.press("Enter");
    await expect(view.getByTestId("answer")).toContainText(/\d+ tokens?( •|$)/);
  });
  await unloadAndDelete(page);
});
