// A place that scrolls sideways or down within the page; the keyboard reaches it as well.
import type { ReactNode } from "react";

interface Props {
  label: string;
  className?: string;
  children: ReactNode;
}

export function ScrollRegion({ label, className = "", children }: Props) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: nothing is filled in here, and there are too many for landmarks.
    <div
      role="group"
      aria-label={label}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable without a pointer.
      tabIndex={0}
      className={`relative overflow-auto rounded-lg ${className}`}
    >
      {children}
    </div>
  );
}
