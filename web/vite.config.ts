// How the web app is built and tested. `MILLM_URL` is where `npm run dev` finds a running `millm serve`.
import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const server = process.env.MILLM_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react(), tailwindcss()],
  server: {
    proxy: { "^/(millm\\.|api/)": { target: server, changeOrigin: true } },
  },
  build: { target: "es2022", sourcemap: false },
  test: {
    environment: "happy-dom",
    include: ["src/**/*.test.{ts,tsx}"],
    setupFiles: ["src/app/test-setup.ts"],
    testTimeout: 30_000,
  },
});
