// Lets Node load TypeScript: the sources run as they are. Every process and thread of realm loads this file first.
import { register } from 'tsx/esm/api';

// Without this tsx obeys the tsconfig.json of the folder that realm is started in, which may redirect any import.
register({ tsconfig: false });
