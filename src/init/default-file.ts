/** The configuration file that `realm init` writes if the user names none. */
export const DEFAULT_FILE = 'realm.yaml';
