const { have } = document.querySelector('script[data-have]').dataset
for (;;) {
  let status = 0
  try {
    status = (await fetch('/mail/new?have=' + have)).status
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 3000)) // the program may be starting again
  }
  if (status === 200) location.reload()
}
