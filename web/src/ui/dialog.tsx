// A modal on the browser's own <dialog>: it traps focus, closes on Escape, and gives focus back.
// The element inside that has `data-autofocus` gets the focus first.
import { X } from "lucide-react";
import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import { Button } from "./button";

interface Props {
  title: string;
  // Called on Escape, on the close button and on a click beside the dialog.
  onClose(): void;
  children: ReactNode;
  // Buttons, the main one last.
  actions?: ReactNode;
  wide?: boolean;
}

export function Dialog({ title, onClose, children, actions, wide = false }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  const [opener] = useState(() => document.activeElement);

  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    dialog?.querySelector<HTMLElement>("[data-autofocus]")?.focus();
    return () => {
      dialog?.close();
      // React takes the element away at once, before the browser would give focus back; and what opened it may be
      // gone by then, with the model that it belonged to.
      const back =
        opener instanceof HTMLElement && opener.isConnected ? opener : document.getElementById("main");
      back?.focus();
    };
  }, [opener]);

  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape is the keyboard's way, and the browser's own.
    <dialog
      ref={ref}
      aria-labelledby={titleId}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => {
        if (event.target === ref.current) {
          onClose();
        }
      }}
      className={`m-auto max-h-[min(90dvh,56rem)] w-[calc(100vw-1.5rem)] overflow-hidden rounded-xl border border-line bg-surface p-0 text-ink shadow-float open:flex open:animate-rise ${wide ? "max-w-2xl" : "max-w-md"}`}
    >
      <div className="flex min-h-0 w-full flex-col">
        <header className="flex items-center justify-between gap-3 border-b border-line py-2.5 pr-2.5 pl-5">
          <h2 id={titleId} className="font-semibold">
            {title}
          </h2>
          <Button label="Close" icon={X} look="quiet" compact="always" onClick={onClose} />
        </header>
        <div className="min-h-0 overflow-y-auto px-5 py-4 text-sm">{children}</div>
        {actions && (
          <footer className="flex flex-wrap justify-end gap-2 border-t border-line bg-raised px-5 py-3">
            {actions}
          </footer>
        )}
      </div>
    </dialog>
  );
}
