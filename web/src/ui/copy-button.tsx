// Copies a text to the clipboard, and says so for a moment.
import { Check, Copy, X } from "lucide-react";
import { useEffect, useState } from "react";
import { Button } from "./button";

const SHOWN_MS = 2_000;

interface Props {
  // What is copied, for its name: "config.json".
  what: string;
  text: string;
  compact?: "never" | "always";
  className?: string;
}

export function CopyButton({ what, text, compact = "never", className = "" }: Props) {
  const [outcome, setOutcome] = useState<"done" | "failed">();

  useEffect(() => {
    if (outcome) {
      const timer = setTimeout(() => setOutcome(undefined), SHOWN_MS);
      return () => clearTimeout(timer);
    }
  }, [outcome]);

  async function copy() {
    try {
      // Absent where the page came over plain HTTP from another machine.
      await navigator.clipboard.writeText(text);
      setOutcome("done");
    } catch {
      setOutcome("failed");
    }
  }

  const label = outcome === "done" ? "Copied" : outcome === "failed" ? "Not copied" : "Copy";
  return (
    <>
      <Button
        label={label}
        icon={outcome === "done" ? Check : outcome === "failed" ? X : Copy}
        look={compact === "always" ? "quiet" : "secondary"}
        compact={compact}
        className={className}
        aria-label={`Copy ${what}`}
        onClick={() => void copy()}
      />
      <span role="status" className="sr-only">
        {outcome ? `${label}: ${what}` : ""}
      </span>
    </>
  );
}
