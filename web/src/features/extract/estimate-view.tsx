// The estimate: the figures, and what speaks against starting.
import { Callout } from "../../ui/callout";
import { type Estimating, estimateRows, estimateText } from "./estimate";

export function EstimateView({ estimate, obstacles, pending }: Estimating) {
  return (
    <section aria-label="Estimate" aria-live="polite" aria-busy={pending} className="flex flex-col gap-2">
      {estimate ? (
        <dl
          data-testid="estimate"
          className={`grid grid-cols-[auto_minmax(0,1fr)] gap-x-6 gap-y-1 rounded-lg bg-raised px-4 py-3 tabular-nums sm:grid-cols-[auto_minmax(0,1fr)_auto_minmax(0,1fr)] ${pending ? "opacity-60" : ""}`}
        >
          {estimateRows(estimate).map(([name, value]) => (
            <Row key={name} name={name} value={value} />
          ))}
        </dl>
      ) : (
        obstacles.length === 0 && (
          <p className="rounded-lg bg-raised px-4 py-3 text-ink-soft">
            {pending ? "Estimating…" : "Choose a dataset, hook points and layers to see what it takes."}
          </p>
        )
      )}
      {obstacles.map(({ reason, message }) => (
        <Callout key={`${reason} ${message}`} tone="warn">
          {message}
        </Callout>
      ))}
    </section>
  );
}

// The same in one line, for beside the button that starts.
export function EstimateLine({ estimate, obstacles }: Estimating) {
  const [obstacle] = obstacles;
  const text = obstacle ? obstacle.message : estimate ? estimateText(estimate) : "";
  return (
    <p
      aria-hidden
      className={`line-clamp-2 min-w-0 basis-full self-center text-xs tabular-nums sm:flex-1 sm:basis-0 ${obstacle ? "text-warn" : "text-ink-soft"}`}
    >
      {text}
    </p>
  );
}

function Row({ name, value }: { name: string; value: string }) {
  return (
    <>
      <dt className="text-ink-soft">{name}</dt>
      <dd className="font-medium wrap-anywhere max-sm:text-right">{value}</dd>
    </>
  );
}
