// Short messages at the edge of the page. They go by themselves, errors later; the pointer holds them.
import { CircleAlert, CircleCheck, X } from "lucide-react";
import { Suspense } from "react";
import { Button } from "./button";
import { lazily } from "./lazily";

export interface Toast {
  tone: "success" | "error";
  text: string;
}

const SUCCESS_MS = 5_000;
const ERROR_MS = 15_000;
const MOST = 4;

const load = () => import("sonner");
const Toaster = lazily(load, "Toaster");
let shown = 0;

// Tells the reader something; the same text is never there twice.
export async function notify({ tone, text }: Toast): Promise<void> {
  const { toast } = await load();
  shown += 1;
  // A new key: a text that is told again is read out again.
  const key = shown;
  toast.custom((id) => <ToastBox key={key} tone={tone} text={text} onDismiss={() => toast.dismiss(id)} />, {
    id: text,
    duration: tone === "error" ? ERROR_MS : SUCCESS_MS,
  });
}

export function Toasts() {
  return (
    <Suspense>
      <Toaster
        position="top-right"
        customAriaLabel="Notifications"
        expand
        visibleToasts={MOST}
        gap={8}
        offset={{ top: "4rem", right: "0.75rem" }}
        mobileOffset={{ top: "6rem", left: "0.75rem", right: "0.75rem" }}
        style={{ "--width": "24rem", zIndex: 40 } as React.CSSProperties}
      />
    </Suspense>
  );
}

interface BoxProps extends Toast {
  onDismiss(): void;
}

function ToastBox({ tone, text, onDismiss }: BoxProps) {
  const Icon = tone === "error" ? CircleAlert : CircleCheck;
  return (
    <div
      role={tone === "error" ? "alert" : undefined}
      data-testid="toast"
      className="flex w-96 max-w-full animate-rise items-start gap-2.5 rounded-lg border border-line bg-surface py-2 pr-2 pl-3 text-sm shadow-float"
    >
      <Icon aria-hidden className={`mt-1 size-4 shrink-0 ${tone === "error" ? "text-bad" : "text-good"}`} />
      <p className="min-w-0 flex-1 py-0.5 wrap-anywhere">{text}</p>
      <Button label="Dismiss" icon={X} look="quiet" compact="always" className="-my-1" onClick={onDismiss} />
    </div>
  );
}
