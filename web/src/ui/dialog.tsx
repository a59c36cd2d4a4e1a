// A modal: it holds the focus, closes on Escape and on a click beside it, and gives the focus back.
// The element inside that has `data-autofocus` gets the focus first.
import { Dialog as Base } from "@base-ui/react/dialog";
import { X } from "lucide-react";
import { type ReactNode, useRef, useState } from "react";
import { Button } from "./button";

interface Props {
  title: string;
  // Called on Escape, on the close button and on a click beside the dialog.
  onClose(): void;
  children: ReactNode;
  // Buttons, the main one last.
  actions?: ReactNode;
  size?: keyof typeof WIDTHS;
}

const WIDTHS = { small: "max-w-md", wide: "max-w-2xl", large: "max-w-4xl" };

export function Dialog({ title, onClose, children, actions, size = "small" }: Props) {
  const popup = useRef<HTMLDivElement>(null);
  const [opener] = useState(() => document.activeElement);

  function focusFirst() {
    return popup.current?.querySelector<HTMLElement>("[data-autofocus]") ?? true;
  }

  // What opened the dialog may be gone when it closes, with the model that it belonged to. That shows only once the
  // page has been changed.
  function giveFocusBack() {
    queueMicrotask(() => {
      const back =
        opener instanceof HTMLElement && opener.isConnected ? opener : document.getElementById("main");
      back?.focus();
    });
    return false;
  }

  return (
    <Base.Root open onOpenChange={(open) => !open && onClose()}>
      <Base.Portal>
        <Base.Backdrop className="fixed inset-0 z-50 bg-backdrop backdrop-blur-[2px]" />
        <Base.Popup
          ref={popup}
          initialFocus={focusFirst}
          finalFocus={giveFocusBack}
          className={`fixed inset-0 z-50 m-auto flex h-fit max-h-[min(90dvh,56rem)] w-[calc(100vw-1.5rem)] animate-rise flex-col overflow-hidden rounded-xl border border-line bg-surface text-ink shadow-float outline-none ${WIDTHS[size]}`}
        >
          <header className="flex items-center justify-between gap-3 border-b border-line py-2.5 pr-2.5 pl-5">
            <Base.Title className="font-semibold">{title}</Base.Title>
            <Base.Close render={<Button label="Close" icon={X} look="quiet" compact="always" />} />
          </header>
          <div className="min-h-0 overflow-y-auto px-5 py-4 text-sm">{children}</div>
          {actions && (
            <footer className="flex flex-wrap justify-end gap-2 border-t border-line bg-raised px-5 py-3">
              {actions}
            </footer>
          )}
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}
