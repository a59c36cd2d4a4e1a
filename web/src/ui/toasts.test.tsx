import { render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, test } from "vitest";
import { notify, Toasts } from "./toasts";

test("a message told before the page has its place for messages is shown there, and can be dismissed", async () => {
  await notify({ tone: "success", text: "gemma is ready." });
  render(<Toasts />);
  const place = await screen.findByRole("region", { name: "Notifications" });
  const toast = await within(place).findByTestId("toast");
  expect(toast.textContent).toContain("gemma is ready.");
  expect(within(place).queryByRole("alert")).toBeNull();
  await userEvent.setup().click(within(toast).getByRole("button", { name: "Dismiss" }));
  await waitFor(() => expect(screen.queryByTestId("toast")).toBeNull());
});

test("an error is read out at once, and the same one is there once", async () => {
  render(<Toasts />);
  await screen.findByRole("region", { name: "Notifications" });
  await notify({ tone: "error", text: "No room." });
  const first = await screen.findByRole("alert");
  await notify({ tone: "error", text: "No room." });
  await waitFor(() => expect(first.isConnected).toBe(false));
  expect(screen.getAllByRole("alert").map((alert) => alert.textContent)).toEqual([
    expect.stringContaining("No room."),
  ]);
});
