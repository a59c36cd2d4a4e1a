// One page in the frame: its title, and what is shown in its place when it fails.
import { CircleAlert, RotateCw } from "lucide-react";
import { type ComponentType, useEffect } from "react";
import { ErrorBoundary } from "react-error-boundary";
import { Button } from "../ui/button";

export function Page({ title, of: Content }: { title: string; of: ComponentType }) {
  useEffect(() => {
    document.title = `${title} · miLLM`;
  }, [title]);
  return (
    <ErrorBoundary key={title} FallbackComponent={Failed}>
      <Content />
    </ErrorBoundary>
  );
}

// Reloading also helps a page whose code was replaced by a newer miLLM.
export function Failed({ error }: { error: unknown }) {
  return (
    <div role="alert" className="m-auto flex flex-col items-center gap-2 px-4 py-16 text-center">
      <span className="grid size-12 place-items-center rounded-full bg-bad-soft text-bad">
        <CircleAlert aria-hidden className="size-6" />
      </span>
      <h1 className="mt-1 font-medium">This page has failed</h1>
      <p className="max-w-md text-sm wrap-anywhere text-ink-soft">
        {error instanceof Error ? error.message : String(error)}
      </p>
      <Button label="Reload the page" icon={RotateCw} look="primary" className="mt-2" onClick={reload} />
    </div>
  );
}

function reload() {
  location.reload();
}
