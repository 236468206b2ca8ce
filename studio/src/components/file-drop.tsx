/** Drop area for a file, with a button to choose one. */

import { useId, useState } from "preact/hooks";

interface Props {
  label: string;
  hint: string;
  accept: string;
  onFile: (file: File) => void;
}

export function FileDrop({ label, hint, accept, onFile }: Props) {
  const id = useId();
  const [over, setOver] = useState(false);
  const take = (files: FileList | null | undefined) => {
    const file = files?.[0];
    if (file) onFile(file);
  };
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        take(event.dataTransfer?.files);
      }}
    >
      <label for={id}>{label}</label>
      <input
        id={id}
        type="file"
        accept={accept}
        onChange={(event) => {
          take(event.currentTarget.files);
          event.currentTarget.value = ""; // so that choosing the same file again causes an event
        }}
      />
      <small class="hint">{hint}</small>
    </div>
  );
}
