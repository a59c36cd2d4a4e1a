// Agreement to use a repository that asks for custom code. Nothing of it is ever run, and this says so.
import { useId } from "react";

interface Props {
  checked: boolean;
  error: string | undefined;
  onChange(checked: boolean): void;
}

export function TrustCheckbox({ checked, error, onChange }: Props) {
  const noteId = useId();
  const note = checked
    ? "Custom code is never run: miLLM uses its own implementation of the architecture. Only allow repositories that you trust."
    : "For repositories that ask for custom code.";
  const look = error ? "text-bad" : checked ? "text-warn" : "text-ink-faint";
  return (
    <div>
      <label className="flex items-center gap-2 text-sm font-medium text-ink-soft">
        <input
          type="checkbox"
          className="size-4 accent-accent"
          aria-describedby={noteId}
          aria-invalid={error ? true : undefined}
          checked={checked}
          onChange={(event) => onChange(event.target.checked)}
        />
        Trust remote code
      </label>
      <p id={noteId} role={error ? "alert" : undefined} className={`mt-1 pl-6 text-xs ${look}`}>
        {error ?? note}
      </p>
    </div>
  );
}
