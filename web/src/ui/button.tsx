// The one button: four looks, an icon whose label never disappears for screen readers, and a busy state.
import { LoaderCircle, type LucideIcon } from "lucide-react";
import type { ComponentProps, MouseEvent } from "react";

type Look = "primary" | "secondary" | "danger" | "quiet";

const LOOKS: Record<Look, string> = {
  primary: "border-transparent bg-accent text-on-accent hover:bg-accent-strong",
  secondary: "border-line-strong bg-surface text-ink hover:bg-sunken",
  danger: "border-bad/50 bg-surface text-bad hover:border-bad hover:bg-bad-soft",
  quiet: "border-transparent text-ink-soft hover:bg-sunken hover:text-ink",
};

interface Props extends Omit<ComponentProps<"button">, "children"> {
  label: string;
  icon?: LucideIcon;
  look?: Look;
  busy?: boolean;
  // Where the icon stands alone: never, on phones, or always. The label stays its name.
  compact?: "never" | "phone" | "always";
}

export function Button({
  label,
  icon: Icon,
  look = "secondary",
  busy = false,
  compact = "never",
  disabled,
  className = "",
  onClick,
  ...rest
}: Props) {
  // A busy button stays focusable, or the keyboard's place on the page would be lost with every action.
  const act = (event: MouseEvent<HTMLButtonElement>) => {
    if (busy) {
      event.preventDefault();
    } else {
      onClick?.(event);
    }
  };
  const shape =
    compact === "always" ? "w-9 px-0" : compact === "phone" ? "px-3 max-sm:w-11 max-sm:px-0" : "px-3.5";
  const hidden = compact === "always" ? "sr-only" : compact === "phone" ? "max-sm:sr-only" : "";
  return (
    <button
      type="button"
      aria-busy={busy || undefined}
      aria-disabled={busy || undefined}
      disabled={disabled && !busy}
      onClick={act}
      title={compact === "never" ? undefined : label}
      className={`inline-flex min-h-9 items-center justify-center gap-1.5 rounded-lg border text-sm font-medium whitespace-nowrap transition-colors aria-disabled:cursor-default! aria-disabled:opacity-55 disabled:cursor-not-allowed disabled:opacity-55 max-sm:min-h-11 ${LOOKS[look]} ${shape} ${className}`}
      {...rest}
    >
      {busy ? (
        <LoaderCircle aria-hidden className="size-4 animate-spin" />
      ) : (
        Icon && <Icon aria-hidden className="size-4 shrink-0" />
      )}
      <span className={hidden}>{label}</span>
    </button>
  );
}
