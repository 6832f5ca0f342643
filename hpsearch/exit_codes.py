"""How a command ends, for shells and programs."""

DONE = 0
OUR_FAULT = 1
USER_ERROR = 2  # something the user gave is wrong
STOPPED = 3  # stopped, resumable
ACTION_NEEDED = 4  # answered, and the answer asks for something to be done
