// The steps that several tests take, by the page's test ids.
import { expect, type Page } from "@playwright/test";
import { REPO } from "./server";

export async function download(page: Page) {
  await page.goto("/models");
  await expect(page.getByText("No models yet")).toBeVisible();
  await page.fill('[data-testid="repo-input"]', REPO);
  await page.click('[data-testid="download-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Ready", { timeout: 60_000 });
}

export async function load(page: Page) {
  await page.click('[data-testid="load-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Loaded", { timeout: 30_000 });
}

export async function unloadAndDelete(page: Page) {
  await page.goto("/models");
  await page.click('[data-testid="unload-btn"]');
  await expect(page.locator('[data-testid="model-status"]')).toHaveText("Ready", { timeout: 45_000 });
  await page.click('[data-testid="delete-btn"]');
  await page.click('[data-testid="confirm-delete-btn"]');
  await expect(page.locator('[data-testid="model-card"]')).toHaveCount(0);
}
