// One figure with its name.

interface Props {
  name: string;
  value: string;
  // Beside the value, smaller.
  note?: string;
}

export function StatTile({ name, value, note }: Props) {
  return (
    <div className="card min-w-0 px-3 py-2.5">
      <dt className="text-xs text-ink-faint">{name}</dt>
      <dd className="font-semibold tabular-nums wrap-anywhere">
        {value || "–"}
        {note && <span className="ml-1.5 text-xs font-normal text-ink-faint">{note}</span>}
      </dd>
    </div>
  );
}
