// What can be done with an extraction. Its main button changes its meaning with the state, so that the keyboard's focus
// stays on it.
import { useMutation } from "@connectrpc/connect-query";
import { CircleX, Play, Repeat, Trash2 } from "lucide-react";
import { Suspense, useState } from "react";
import { useNavigate } from "react-router";
import {
  type Extraction,
  Extraction_State,
  InspectionService,
} from "../../gen/millm/inspection/v1/inspection_pb";
import { Button } from "../../ui/button";
import { lazily } from "../../ui/lazily";
import { isActive, isResumable, titleOf } from "./describe";

const DeleteExtractionDialog = lazily(() => import("./delete-extraction-dialog"), "DeleteExtractionDialog");

interface Props {
  extraction: Extraction;
  // Called when it has been deleted.
  onDeleted?: () => void;
}

export function ExtractionButtons({ extraction, onDeleted }: Props) {
  const { name, id } = extraction;
  const title = titleOf(extraction);
  const navigate = useNavigate();
  const [deleting, setDeleting] = useState(false);
  const cancel = useMutation(InspectionService.method.cancelExtraction);
  const resume = useMutation(InspectionService.method.resumeExtraction);
  const replay = useMutation(InspectionService.method.replayExtraction, {
    onSuccess: (started) => void navigate(`/extractions/${started.id}`),
  });
  const request = { name: name || id };
  const active = isActive(extraction);
  return (
    <>
      {active || isResumable(extraction) ? (
        <Button
          label={active ? "Cancel" : "Resume"}
          icon={active ? CircleX : Play}
          look={active ? "secondary" : "primary"}
          aria-label={`${active ? "Cancel" : "Resume"} ${title}`}
          data-testid={active ? "cancel-extraction-btn" : "resume-extraction-btn"}
          busy={cancel.isPending || resume.isPending}
          onClick={() => (active ? cancel : resume).mutate(request)}
        />
      ) : (
        extraction.state === Extraction_State.SUCCEEDED && (
          <Button
            label="Replay"
            icon={Repeat}
            title="Do it again and compare"
            aria-label={`Replay ${title}`}
            data-testid="replay-btn"
            busy={replay.isPending}
            onClick={() => replay.mutate(request)}
          />
        )
      )}
      <Button
        label={active ? "Delete (cancel it first)" : "Delete"}
        icon={Trash2}
        look="quiet"
        compact="always"
        className="max-sm:w-11"
        aria-label={`Delete ${title}${active ? ": cancel it first" : ""}`}
        data-testid="delete-extraction-btn"
        disabled={active}
        onClick={() => setDeleting(true)}
      />
      <Suspense>
        {deleting && (
          <DeleteExtractionDialog
            extraction={extraction}
            onClose={() => setDeleting(false)}
            {...(onDeleted ? { onDeleted } : {})}
          />
        )}
      </Suspense>
    </>
  );
}
