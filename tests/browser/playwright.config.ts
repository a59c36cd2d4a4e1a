// The page in a real browser against a running `millm serve`:
//   MILLM_URL       where it answers, with no models in it yet
//   MILLM_REPO      a small chat model that its hub holds, "owner/name"
//   MILLM_CHROMIUM  the browser; Debian's unless set
//   MILLM_SCREENS   for `npm run screens`: the folder for the pictures
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  // One server, one loaded model: one test at a time.
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  retries: 0,
  timeout: 180_000,
  expect: { timeout: 15_000 },
  reporter: "list",
  outputDir: "test-results",
  use: {
    baseURL: process.env.MILLM_URL,
    viewport: { width: 1180, height: 820 },
    screenshot: "only-on-failure",
    launchOptions: {
      executablePath: process.env.MILLM_CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
  projects: [
    { name: "flow", testMatch: "flow.spec.ts" },
    { name: "screens", testMatch: "screens.spec.ts" },
  ],
});
