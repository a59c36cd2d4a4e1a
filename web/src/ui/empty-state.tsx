// What is shown where a list has nothing: what would be there, and what brings the first one.
import type { LucideIcon } from "lucide-react";
import type { ReactNode } from "react";

interface Props {
  icon: LucideIcon;
  title: string;
  children: ReactNode;
  // A button or a link.
  action?: ReactNode;
}

export function EmptyState({ icon: Icon, title, children, action }: Props) {
  return (
    <div className="flex flex-col items-center gap-2 rounded-xl border border-dashed border-line-strong px-6 py-12 text-center">
      <span className="grid size-12 place-items-center rounded-full bg-accent-soft text-accent">
        <Icon aria-hidden className="size-6" />
      </span>
      <p className="mt-1 font-medium">{title}</p>
      <p className="max-w-sm text-sm text-ink-soft">{children}</p>
      {action && <div className="mt-2">{action}</div>}
    </div>
  );
}
