// A progress bar that says its number to everybody; without one it only shows that something happens.

interface Props {
  label: string;
  // 0 to 1; undefined while unknown.
  fraction: number | undefined;
  tone?: "accent" | "warn";
  thin?: boolean;
}

export function Progress({ label, fraction, tone = "accent", thin = false }: Props) {
  const percent = fraction === undefined ? undefined : Math.round(clamp(fraction) * 100);
  const fill = tone === "warn" ? "bg-warn-fill" : "bg-accent";
  return (
    <div
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
      className={`overflow-hidden rounded-full bg-sunken ring-1 ring-line ring-inset ${thin ? "h-1.5" : "h-2"}`}
    >
      {fraction === undefined ? (
        <div className={`h-full w-2/7 animate-sweep rounded-full ${fill}`} />
      ) : (
        <div
          className={`h-full rounded-full transition-[width] duration-200 ease-linear ${fill}`}
          style={{ width: `${clamp(fraction) * 100}%` }}
        />
      )}
    </div>
  );
}

function clamp(fraction: number): number {
  return Math.min(1, Math.max(0, fraction));
}
