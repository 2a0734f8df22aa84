import { html, raw } from '../report/html.ts';

/**
 * The page with the form for the token.
 * @param style the report page's style: the content security policy allows no other
 * @param problem why the last attempt failed
 */
export function loginPage(style: string, problem?: string): string {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Log in – realm</title>
<link rel="icon" href="data:,">
<style>${raw(style)}</style>
</head>
<body>
<header class="top">
<p class="kicker">realm</p>
<h1>Log in</h1>
</header>
<main id="ask">
<form method="post" action="login">
<label for="token">Token of this server</label>
<div class="box"><input id="token" name="token" type="password" autocomplete="current-password" required autofocus><button type="submit">Log in</button></div>
</form>
${problem !== undefined && html`<p class="trouble" role="alert">${problem}</p>`}
<p class="soft">The token was passed to "realm serve" at its start, or it was printed in its terminal.</p>
</main>
</body>
</html>
`.text;
}
