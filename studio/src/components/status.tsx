/** Requests in progress and their errors. */

import { signal, type Signal } from "@preact/signals";

import { ApiError } from "../api/client";
import { t } from "../i18n";
import { Button } from "./controls";

/** The state of one kind of request. */
export interface Task {
  busy: Signal<boolean>;
  error: Signal<string | null>;
  /** Run a request, after aborting the previous one. */
  run: (work: (signal: AbortSignal) => Promise<void>) => Promise<void>;
  abort: () => void;
}

export function newTask(): Task {
  const busy = signal(false);
  const error = signal<string | null>(null);
  let controller: AbortController | null = null;
  return {
    busy,
    error,
    abort: () => controller?.abort(),
    run: async (work) => {
      controller?.abort();
      const own = new AbortController();
      controller = own;
      busy.value = true;
      error.value = null;
      try {
        await work(own.signal);
      } catch (raised) {
        if (!own.signal.aborted) error.value = messageOf(raised);
      } finally {
        if (controller === own) {
          busy.value = false;
          controller = null;
        }
      }
    },
  };
}

export function messageOf(error: unknown): string {
  if (error instanceof ApiError) {
    if (error.problem.status === 0) return t("error.offline");
    if (error.problem.status === 429) return t("error.rate");
    if (error.problem.status === 401) return t("error.key");
    if (error.problem.status === 404 && error.problem.model) return t("error.model", { model: error.problem.model });
    return error.problem.detail || error.problem.title;
  }
  return error instanceof Error ? error.message : String(error);
}

interface Props {
  task: Task;
  busyText: string;
  /** Offer to cancel the request. */
  cancel?: boolean;
}

export function Status({ task, busyText, cancel = false }: Props) {
  return (
    <div class="status" aria-live="polite">
      {task.busy.value && (
        <p class="busy">
          <span class="spinner" aria-hidden="true" /> {busyText}{" "}
          {cancel && (
            <Button small onClick={task.abort}>
              {t("app.cancel")}
            </Button>
          )}
        </p>
      )}
      {task.error.value && (
        <p class="error" role="alert">
          {task.error.value}
        </p>
      )}
    </div>
  );
}
