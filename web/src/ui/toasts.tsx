// Short messages at the edge of the page. They go by themselves, errors later; the pointer holds them.
import { CircleAlert, CircleCheck, X } from "lucide-react";
import { createContext, type ReactNode, useCallback, useContext, useEffect, useState } from "react";
import { Button } from "./button";

export interface Toast {
  tone: "success" | "error";
  text: string;
}

interface Shown extends Toast {
  key: number;
}

const ToastContext = createContext<(toast: Toast) => void>(() => {});

// Tells the reader something; the same text is never there twice.
export function useToast(): (toast: Toast) => void {
  return useContext(ToastContext);
}

const MOST = 4;
const SUCCESS_MS = 5_000;
const ERROR_MS = 15_000;
let nextKey = 0;

export function Toasts({ children }: { children: ReactNode }) {
  const [shown, setShown] = useState<Shown[]>([]);
  const show = useCallback((toast: Toast) => {
    nextKey += 1;
    const key = nextKey;
    setShown((before) =>
      [...before.filter((other) => other.text !== toast.text), { ...toast, key }].slice(-MOST),
    );
  }, []);
  const dismiss = useCallback((key: number) => {
    setShown((before) => before.filter((toast) => toast.key !== key));
  }, []);

  return (
    <ToastContext value={show}>
      {children}
      <section
        aria-label="Notifications"
        aria-live="polite"
        className="pointer-events-none fixed inset-x-3 top-24 z-40 flex flex-col items-end gap-2 sm:top-16 sm:left-auto sm:w-96"
      >
        {shown.map((toast) => (
          <ToastBox key={toast.key} toast={toast} onDismiss={dismiss} />
        ))}
      </section>
    </ToastContext>
  );
}

function ToastBox({ toast, onDismiss }: { toast: Shown; onDismiss(key: number): void }) {
  const { key, tone } = toast;
  const [held, setHeld] = useState(false);
  useEffect(() => {
    if (held) {
      return;
    }
    const timer = setTimeout(() => onDismiss(key), tone === "error" ? ERROR_MS : SUCCESS_MS);
    return () => clearTimeout(timer);
  }, [key, tone, held, onDismiss]);

  const Icon = tone === "error" ? CircleAlert : CircleCheck;
  return (
    <div
      role={tone === "error" ? "alert" : undefined}
      data-testid="toast"
      onPointerEnter={() => setHeld(true)}
      onPointerLeave={() => setHeld(false)}
      className="pointer-events-auto flex w-full animate-rise items-start gap-2.5 rounded-lg border border-line bg-surface py-2 pr-2 pl-3 text-sm shadow-float"
    >
      <Icon aria-hidden className={`mt-1 size-4 shrink-0 ${tone === "error" ? "text-bad" : "text-good"}`} />
      <p className="min-w-0 flex-1 py-0.5 wrap-anywhere">{toast.text}</p>
      <Button
        label="Dismiss"
        icon={X}
        look="quiet"
        compact="always"
        className="-my-1"
        onClick={() => onDismiss(key)}
      />
    </div>
  );
}
