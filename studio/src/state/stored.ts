/** Values with files in them, which local storage cannot hold: kept in the browser's IndexedDB. */

const DATABASE = "tritone.studio";
const STORE = "values";

function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return settled(request);
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's storage failed"));
  });
}

async function within<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await open();
  try {
    const transaction = database.transaction(STORE, mode);
    const complete = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser's storage failed"));
    });
    const [result] = await Promise.all([settled(work(transaction.objectStore(STORE))), complete]);
    return result;
  } finally {
    database.close();
  }
}

/** Store a value; return whether that worked. Private windows and full disks refuse. */
export async function store(name: string, value: unknown): Promise<boolean> {
  try {
    await within("readwrite", (values) => values.put(value, name));
    return true;
  } catch {
    return false;
  }
}

/** Return a stored value, or undefined. */
export async function stored(name: string): Promise<unknown> {
  try {
    return await within<unknown>("readonly", (values) => values.get(name) as IDBRequest<unknown>);
  } catch {
    return undefined;
  }
}

/** Remove a stored value. */
export async function forget(name: string): Promise<void> {
  try {
    await within("readwrite", (values) => values.delete(name));
  } catch {
    // Where nothing can be stored, there is nothing to remove.
  }
}
