// A sentence that stands out: what went wrong, or what to mind before going on.
import { CircleAlert, Info, TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";

const TONES = {
  info: { icon: Info, look: "bg-accent-soft text-accent-strong" },
  warn: { icon: TriangleAlert, look: "bg-warn-soft text-warn" },
  bad: { icon: CircleAlert, look: "bg-bad-soft text-bad" },
};

interface Props {
  tone: keyof typeof TONES;
  children: ReactNode;
  // Read out when it appears.
  alert?: boolean;
}

export function Callout({ tone, children, alert = false }: Props) {
  const { icon: Icon, look } = TONES[tone];
  return (
    <div role={alert ? "alert" : undefined} className={`flex gap-2 rounded-lg px-3 py-2 text-sm ${look}`}>
      <Icon aria-hidden className="mt-0.5 size-4 shrink-0" />
      <div className="min-w-0 wrap-anywhere">{children}</div>
    </div>
  );
}
