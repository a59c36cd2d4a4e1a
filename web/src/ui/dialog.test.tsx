import { render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { expect, test } from "vitest";
import { Dialog } from "./dialog";

// A thing that opens a dialog, which may take the thing away.
function Thing() {
  const [open, setOpen] = useState(false);
  const [gone, setGone] = useState(false);
  if (gone) {
    return null;
  }
  return (
    <div>
      <button type="button" onClick={() => setOpen(true)}>
        Open
      </button>
      {open && (
        <Dialog
          title="Sure?"
          onClose={() => setOpen(false)}
          actions={
            <button type="button" data-autofocus onClick={() => setGone(true)}>
              Remove
            </button>
          }
        >
          <p>It would be gone.</p>
        </Dialog>
      )}
    </div>
  );
}

function page() {
  render(
    <main id="main" tabIndex={-1}>
      <Thing />
    </main>,
  );
  return userEvent.setup();
}

const dialog = () => screen.queryByRole("dialog", { name: "Sure?" });
const opener = () => screen.getByText("Open");

test("it takes the focus to where it is wanted, and hides the page behind it", async () => {
  const user = page();
  await user.click(opener());
  await waitFor(() => expect(document.activeElement?.textContent).toBe("Remove"));
  expect(screen.queryByRole("button", { name: "Open" })).toBeNull();
});

test.each([
  ["Escape", (user: ReturnType<typeof page>) => user.keyboard("{Escape}")],
  [
    "its button",
    (user: ReturnType<typeof page>) => user.click(screen.getByRole("button", { name: "Close" })),
  ],
])("%s closes it and gives the focus back", async (_what, close) => {
  const user = page();
  await user.click(opener());
  await waitFor(() => expect(dialog()).toBeTruthy());
  await close(user);
  await waitFor(() => expect(dialog()).toBeNull());
  await waitFor(() => expect(document.activeElement).toBe(opener()));
});

test("when its opener has gone with it, the page gets the focus", async () => {
  const user = page();
  await user.click(opener());
  await user.click(await screen.findByRole("button", { name: "Remove" }));
  await waitFor(() => expect(dialog()).toBeNull());
  await waitFor(() => expect(document.activeElement).toBe(document.getElementById("main")));
});
