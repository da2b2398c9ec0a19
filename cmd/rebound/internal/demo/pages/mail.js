for (;;) {
  let status = 0
  try {
    status = (await fetch('/mail/new')).status
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 3000)) // the program may be starting again
  }
  if (status === 200) location.reload()
}
