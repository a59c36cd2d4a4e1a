// What is shown where something could not be asked for: why, and a way to ask again.
import { RotateCw } from "lucide-react";
import { problemOf } from "../api/errors";
import { Button } from "./button";
import { Callout } from "./callout";

interface Props {
  cause: unknown;
  busy: boolean;
  onRetry(): void;
}

export function LoadFailure({ cause, busy, onRetry }: Props) {
  return (
    <div className="flex flex-col items-start gap-3">
      <Callout tone="bad" alert>
        {problemOf(cause)?.message ?? "The request was cancelled."}
      </Callout>
      <Button label="Try again" icon={RotateCw} busy={busy} onClick={onRetry} />
    </div>
  );
}
