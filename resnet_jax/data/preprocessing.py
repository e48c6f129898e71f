"""What a net expects of an image: enough to classify files without the data set it learned from."""

import dataclasses
import pathlib
from typing import cast

import numpy as np
import PIL.Image
import PIL.ImageOps

from resnet_jax.data import crops, decode
from resnet_jax.data.augment import Normalization
from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing

MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Of one run's data set.

    Attributes:
        normalization: fitted to the training split.
        image_shape: (height, width, channels).
        class_names: in label order.
        cropped: whether evaluation sees the centre crop of 224/256 of the shorter side, as of
            streamed images, and not all that fits the shape.
    """

    normalization: Normalization
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    cropped: bool = False

    def save(self, path: pathlib.Path) -> None:
        """Writes everything into one .npz file, in one step."""
        with replacing(path) as file:
            np.savez(
                file,
                mean=self.normalization.mean,
                std=self.normalization.std,
                image_shape=np.array(self.image_shape),
                class_names=np.array(self.class_names),
                cropped=np.array(self.cropped),
            )

    @classmethod
    def load(cls, path: pathlib.Path) -> "Preprocessing":
        """Reads what `save` wrote.

        Raises:
            InputError: if it is missing or damaged, with the command that writes it.
        """
        mend = f"write it with python -m resnet_jax.main --mode=evaluate --workdir={path.parent}"
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                height, width, channels = arrays["image_shape"].tolist()
                return cls(
                    Normalization(arrays["mean"], arrays["std"]),
                    (height, width, channels),
                    tuple(arrays["class_names"].tolist()),
                    # Runs of versions before images were streamed have none.
                    bool(arrays.get("cropped", False)),
                )
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; {mend}") from error
        # NumPy, zipfile and zlib raise many kinds, not all of them OSError or ValueError.
        except Exception as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}); {mend}") from error

    def image(self, path: pathlib.Path) -> np.ndarray:
        """Reads an image file as the net's data set has its images.

        Turned as its EXIF data say, laid on white where it is transparent (what most viewers
        show), and converted to colour or grey (ITU-R 601 luma). Then it is cut to the shape of the
        data set's images around its centre and resized by bicubic interpolation with antialiasing;
        one that is of that size already keeps its pixels. If the run's images were streamed, it is
        cropped as they are in evaluation. Of an animation this is the first frame.

        Args:
            path: of any format and mode that Pillow reads; 16 bits are brought to 8.

        Returns:
            uint8 [height, width, channels].

        Raises:
            InputError: naming the file, if it is missing, damaged or no image.
        """
        height, width, channels = self.image_shape
        if channels not in MODES:
            raise InputError(
                f"the run's images have {channels} channels; only grey (1) and colour (3) images "
                "can be read from files"
            )
        if self.cropped:
            return self._crop(path)
        try:
            with PIL.Image.open(path) as file:
                image = decode.opaque(PIL.ImageOps.exif_transpose(file)).convert(MODES[channels])
        except FileNotFoundError as error:
            raise InputError(f"image {path} does not exist; check the path") from error
        except PIL.UnidentifiedImageError as error:
            raise InputError(f"image {path} is no image that Pillow can read") from error
        # Pillow's decoders raise many kinds, not all of them OSError or ValueError.
        except Exception as error:
            raise InputError(f"image {path} cannot be read: {first_line(error)}") from error
        fitted = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.BICUBIC)
        return np.asarray(fitted, np.uint8).reshape(self.image_shape)

    def _crop(self, path: pathlib.Path) -> np.ndarray:
        """The centre crop of an image file, upright."""
        try:
            image = decode.StoredImage(path.read_bytes(), upright=True)
            box = crops.center(image.width, image.height, self.image_shape[0])
            return cast(np.ndarray, image.crops([box], self.image_shape[0])[0])
        except FileNotFoundError as error:
            raise InputError(f"image {path} does not exist; check the path") from error
        except (OSError, decode.Unreadable) as error:
            raise InputError(f"image {path} cannot be read: {first_line(error)}") from error
