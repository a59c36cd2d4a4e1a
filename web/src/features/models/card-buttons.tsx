// The buttons of a model's card. The main one is one element that changes its meaning with the model's status, so
// that the keyboard's focus stays on it from Load to Unload.
import { CircleX, type LucideIcon, Play, RotateCw, Square, Trash2 } from "lucide-react";
import type { ModelView } from "../../api/join";
import { Button } from "../../ui/button";
import type { Action, ModelActions } from "./actions";

interface Meaning {
  action: Action;
  label: string;
  icon: LucideIcon;
  look: "primary" | "secondary" | "danger";
  // It is happening already.
  busy?: boolean;
}

const LOAD: Meaning = { action: "load", label: "Load", icon: Play, look: "primary" };
const UNLOAD: Meaning = { action: "unload", label: "Unload", icon: Square, look: "danger" };
const CANCEL: Meaning = { action: "cancel", label: "Cancel", icon: CircleX, look: "secondary" };
const RETRY: Meaning = { action: "retry", label: "Retry", icon: RotateCw, look: "primary" };

function meaningFor(model: ModelView): Meaning {
  switch (model.status) {
    case "queued":
    case "downloading":
    case "verifying":
    case "quantizing":
      return CANCEL;
    case "ready":
      return LOAD;
    case "loading":
      return { ...LOAD, label: "Loading", busy: true };
    case "loaded":
      return UNLOAD;
    case "unloading":
      return { ...UNLOAD, label: "Unloading", busy: true };
    case "error":
      return model.failed === "load" ? LOAD : RETRY;
  }
}

interface MainProps {
  model: ModelView;
  actions: ModelActions;
  onLoad(): void;
  onRetry(): void;
}

export function MainButton({ model, actions, onLoad, onRetry }: MainProps) {
  const { action, label, icon, look, busy = false } = meaningFor(model);
  const act = () => {
    switch (action) {
      case "load":
        return onLoad();
      case "retry":
        return onRetry();
      case "unload":
        return actions.unload();
      case "cancel":
        return actions.cancel();
    }
  };
  return (
    <Button
      label={label}
      icon={icon}
      look={look}
      compact="phone"
      data-testid={`${action}-btn`}
      aria-label={`${label} ${model.handle}`}
      busy={busy || actions.busy.has(action)}
      disabled={actions.busy.has("delete")}
      onClick={act}
    />
  );
}

interface DeleteProps {
  model: ModelView;
  busy: ReadonlySet<Action>;
  onDelete(): void;
}

export function DeleteButton({ model, busy, onDelete }: DeleteProps) {
  const resident = model.residence !== undefined;
  return (
    <Button
      label={resident ? "Delete (unload it first)" : "Delete"}
      icon={Trash2}
      look="quiet"
      compact="always"
      className="max-sm:w-11"
      data-testid="delete-btn"
      aria-label={`Delete ${model.handle}${resident ? ": unload it first" : ""}`}
      disabled={resident || busy.size > 0}
      onClick={onDelete}
    />
  );
}
